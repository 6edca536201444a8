"""The CamNet trainer: posed images in, a database map with relative pose regressors out."""
