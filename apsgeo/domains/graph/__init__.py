"""Stations, point clouds and other nodes with edges."""
