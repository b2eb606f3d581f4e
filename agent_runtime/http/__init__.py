"""What every route answers with: problems and their codes, streams, tags of heads, request ids."""
