"""One file per store. A tier imports its client in its constructor, and neither the engine nor another tier."""
