"""The report on a map: coverage, accuracy along the route, weak and ambiguous places, advice."""
