"""What outlives a process, by subject: an interface, a memory and a Redis implementation each. Only here is Redis known."""
