"""From what a request says to the parameters of a job: defaults, checks, and what names stand for."""
