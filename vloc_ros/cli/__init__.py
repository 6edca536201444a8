"""The commands of ``vloc``, one module each; heavy imports wait until a command runs."""
