"""What everything else stands on: settings, errors, HTTP values, dtypes, files, storage. It imports no other room."""
