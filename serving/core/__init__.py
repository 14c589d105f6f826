"""The foundation of all packages: settings, errors, HTTP values, dtypes, files, storage. It imports none of them."""
