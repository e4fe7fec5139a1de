"""What stands in the header of the book's pages."""

from rehome import GITHUB  # it lies in tests/


def theme_options(repo: str | None, ref: str) -> dict:
    """What stands in the header: buttons that need an address only where there is one."""
    options: dict = {
        "show_navbar_depth": 1,
        "show_toc_level": 2,
        "use_download_button": True,
        "use_fullscreen_button": False,
        "home_page_in_toc": True,
        "navigation_with_keys": False,
        "navbar_persistent": [],  # one box to search in is enough: that at the side
        "pygments_light_style": "a11y-high-contrast-light",
        "pygments_dark_style": "a11y-high-contrast-dark",
    }
    if repo:
        options |= {
            "repository_url": f"{GITHUB}{repo}",
            "repository_branch": ref,
            "path_to_docs": "",
            "use_repository_button": True,
            "use_issues_button": True,
            "launch_buttons": {
                "binderhub_url": "https://mybinder.org",
                "colab_url": "https://colab.research.google.com",
                "notebook_interface": "jupyterlab",
            },
        }
    return options
