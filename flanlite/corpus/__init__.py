"""Outside formats in: files to rows, rows to conversations, conversations to a mixture."""
