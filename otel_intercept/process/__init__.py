"""The server's half of the process recorder: hands records to a helper process."""
