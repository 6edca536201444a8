"""Training of IRPNet's regressors on stored descriptors."""
