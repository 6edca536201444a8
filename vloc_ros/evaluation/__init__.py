"""Figures, reports and plots of a run, counted the same way everywhere."""
