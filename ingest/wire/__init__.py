"""Pure code for what travels over the wire: signatures, envelopes, JSON documents, timestamps."""
