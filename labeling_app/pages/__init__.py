"""One module a page: each draws itself with `show`, and holds what its buttons do."""
