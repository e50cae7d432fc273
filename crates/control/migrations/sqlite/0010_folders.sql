-- The files of a folder, as a JSON list of paths; NULL for a single object, and for a folder that a relay walks.
ALTER TABLE relay_task ADD COLUMN files TEXT;
