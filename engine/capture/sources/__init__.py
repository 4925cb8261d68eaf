"""Where changes come from: one small interface (`base`), and who makes the source that the settings name (`make`)."""
