#!lua flags=allow-oom
-- needs: images/books
-- ARGV: entries whose objects are deleted.
for _, entry in ipairs(ARGV) do
  forget_objects(entry)
end
return 1
