"""One module a page, a folder where it is a long one: each draws itself with `show`, and holds what its buttons do.

Not named `pages`: Streamlit would serve every file of a folder of that name at an address of its own, past app.py.
"""
