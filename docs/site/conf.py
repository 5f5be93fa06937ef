"""The site of the documentation: the Markdown of the repository where it lies, by Sphinx and MyST (`make docs`).

The whole repository is the source folder, so that links between README, docs/, infra/ and deployments/ are links of the
site too; a link to any other file of the repository (a setting's template, a contract) gives that file. Nothing is loaded
from another host.
"""

from __future__ import annotations

project = "AutoNVIS"
html_title = "AutoNVIS"
copyright = "AutoNVIS operators, Apache-2.0"

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/**/*.md", "infra/*.md", "infra/**/*.md", "deployments/*.md"]
exclude_patterns = [".*", "build", "target", "var*", "tests", "docs/site"]
myst_heading_anchors = 4  # as on the forges: runbook.md#nviscycleslow
suppress_warnings = ["myst.header"]  # the changelog begins its versions at any depth

html_theme = "furo"
html_extra_path = ["html"]  # index.html of the folder itself leads to the front page
html_static_path = ["static"]
html_css_files = ["autonvis.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
