"""What a run may wait for, without holding a worker slot."""
