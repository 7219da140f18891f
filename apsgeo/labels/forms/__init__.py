"""How values on a manifold are written in labelled arrays: angles, components, matrices."""
