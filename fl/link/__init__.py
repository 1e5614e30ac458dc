"""What both ends of the link share: the protocol (``link.proto``), join tokens, the shape of a site's report."""
