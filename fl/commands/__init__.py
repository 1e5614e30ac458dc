"""The sub-commands of ``fl`` that need nothing but the library. Imports stay inside the functions: ``fl --help`` is quick."""
