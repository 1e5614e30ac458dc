"""The border with Flower: the round engine as a ServerApp, a site's training as a ClientApp, its Grid as the port."""
