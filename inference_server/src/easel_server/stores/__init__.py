"""What outlives a process, by subject: interface, memory and Redis side by side. Only here is Redis known."""
