"""Operations of a site: a wanted state into commands, each with its own timeout; none where all is right."""
