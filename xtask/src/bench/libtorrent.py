"""seed|get|share TORRENT FOLDER ADDRESS [SETTINGS]: libtorrent with its default settings but discovery off and plain TCP.

"get" ends when it has the file, "share" says so and goes on seeding. SETTINGS is JSON of other session settings; its
"super_seeding" makes a seed use BEP 16.
"""

import ctypes
import json
import signal
import sys

import libtorrent as lt

role, torrent, folder, address = sys.argv[1:5]
# PR_SET_PDEATHSIG: never outlive the benchmark.
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
more = json.loads(sys.argv[5]) if len(sys.argv) > 5 else {}
super_seeding = more.pop("super_seeding", False)
settings = {
    "listen_interfaces": address,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "allow_multiple_connections_per_ip": True,
    "ssrf_mitigation": False,
    "alert_mask": lt.alert.category_t.status_notification,
}
if role == "share" or role == "seed":
    # A swarm: more neighbours, found sooner.
    settings |= {"connections_limit": 500, "connection_speed": 100}
if not address.startswith("0.0.0.0"):
    settings["outgoing_interfaces"] = address.rsplit(":", 1)[0]
session = lt.session(settings | more)
params = lt.load_torrent_file(torrent)
params.save_path = folder
params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
params.flags |= lt.torrent_flags.disable_pex
if role == "seed":
    params.flags |= lt.torrent_flags.seed_mode
    if super_seeding:
        params.flags |= lt.torrent_flags.super_seeding
session.add_torrent(params)
while True:
    session.wait_for_alert(1000)
    for alert in session.pop_alerts():
        if role != "seed" and isinstance(alert, lt.torrent_finished_alert):
            print('{"event":"done"}', flush=True)
            if role == "get":
                sys.exit(0)
