"""``confide keys page``: the broker's pages in the owner's browser, through a companion that signs and verifies on this machine."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

import click

from confide.cli.grants import AS
from confide.cli.output import Context, answers, say


@click.command("page")
@AS
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="a free one", help="Port on 127.0.0.1 to listen on.")
@click.option("--no-browser", is_flag=True, help="Only print the address; open no browser.")
@answers
def page(context: Context, who: str | None, port: int, *, no_browser: bool) -> None:
    """Look at keys, grants, releases and the audit log in a browser; approve and verify there.

    Serves one browser on this machine until Ctrl-C, or until nothing was asked for in 30 minutes.  The address holds a code that admits one
    browser, once: give it to nobody.  Grants are signed and the log is verified here, not at the broker.
    """
    from confide.cli.owners import client_of, credential_of
    from confide.keys.page.admission import Admission
    from confide.keys.page.companion import Companion
    from confide.keys.page.loopback import Loopback

    name = credential_of(context.settings, who).name
    listener = Loopback(port)
    admission = Admission(listener.host)
    with client_of(context.settings, name) as client:
        companion = Companion(client, name, admission, lambda: datetime.now(UTC))
        address = f"{admission.origin}/start?code={admission.code}"
        try:  # from here on, whoever reads the address may end this
            context.answer({"url": address, "as": name}, lambda: say(address))
            sys.stdout.flush()
            say(f"shows {name}'s view to one browser; Ctrl-C ends it", err=True)
            if not no_browser and not context.as_json:
                _open(admission.origin, str(admission.code))
            listener.serve(companion.handle)
            say("ended: nothing was asked for in a while", err=True)
        except KeyboardInterrupt:
            say("ended", err=True)
        finally:
            listener.close()


def _open(origin: str, code: str) -> None:
    """Open a browser at the entry.  The code is not in its command line, which every user of this machine can read."""
    import webbrowser

    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return  # what would open is a browser in this terminal
    if webbrowser.open(f"{origin}/"):
        say(f"the browser asks for this code: {code}", err=True)
