"""What functions write to, as the audit reads it: one file each behind one small interface."""
