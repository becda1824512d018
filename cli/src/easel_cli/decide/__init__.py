"""From what was gathered to what is said: pure, so that each rule is tested on values. No clock, no I/O."""
