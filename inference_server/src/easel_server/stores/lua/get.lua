#!lua flags=no-writes
-- ARGV: id. Returns the job, empty if unknown.
return view(ARGV[1])
