"""Whole tables, methods by splits: data, maps and figures from one protocol file, with everything made kept."""
