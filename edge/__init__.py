"""The site's side: the SuperNode, its executor, and the keys that never leave the site."""
