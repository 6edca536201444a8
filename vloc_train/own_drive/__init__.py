"""From one's own drive to a map that can be trusted: which frames, which are held out, and a report of the result."""
