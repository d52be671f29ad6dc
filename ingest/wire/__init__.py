"""What travels over the wire, as pure code without I/O: signatures, envelopes, JSON documents, timestamps."""
