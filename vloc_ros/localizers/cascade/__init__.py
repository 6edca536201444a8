"""Two maps as one: a coarse localizer says where to look, a fine one refines what it found."""
