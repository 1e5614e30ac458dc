"""The sub-commands that need nothing but the library. Imports stay inside functions, so that ``fl --help`` is quick."""
