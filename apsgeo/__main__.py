"""Run the command: `python -m apsgeo`."""

from apsgeo.cli import app

if __name__ == "__main__":
    app()
