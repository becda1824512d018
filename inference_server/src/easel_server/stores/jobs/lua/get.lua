#!lua flags=no-writes
-- needs: jobs/fields
-- ARGV: id. Returns the job, empty if unknown.
return view(ARGV[1])
