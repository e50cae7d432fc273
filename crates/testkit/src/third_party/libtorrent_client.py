"""libtorrent as a peer and as an oracle for info-hashes; speaks JSON lines on stdout. Started by the test kit."""

import ctypes
import hashlib
import json
import os
import signal
import sys

import libtorrent as lt


def say(**event):
    print(json.dumps(event), flush=True)


def transfer(source, folder, address):
    """Seeds or downloads, by a torrent file or a magnet link: whatever the folder makes of it. Prints `listening`, with a
    magnet link `metadata`, then `done` when it has everything."""
    session = lt.session({
        "listen_interfaces": address,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "allow_multiple_connections_per_ip": True,
        "ssrf_mitigation": False,
        "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.peer_notification
        | lt.alert.category_t.tracker_notification | lt.alert.category_t.status_notification
        | lt.alert.category_t.connect_notification | lt.alert.category_t.storage_notification,
    })
    is_magnet = source.startswith("magnet:")
    params = lt.parse_magnet_uri(source) if is_magnet else lt.add_torrent_params()
    if not is_magnet:
        params.ti = lt.torrent_info(source)
    params.save_path = folder
    params.flags &= ~lt.torrent_flags.auto_managed
    params.flags &= ~lt.torrent_flags.paused
    handle = session.add_torrent(params)
    flushing = False
    listening = False
    while True:
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            print(alert.what(), alert, file=sys.stderr, flush=True)
            if isinstance(alert, lt.metadata_received_alert):
                hashes = handle.info_hashes()
                say(event="metadata", v1=hashes.has_v1(), v2=hashes.has_v2())
            # Only now the file is whole: what was verified may still be on its way to it.
            if isinstance(alert, lt.cache_flushed_alert):
                say(event="done", payload=handle.status().total_payload_download)
        if not listening and session.listen_port():
            listening = True
            say(event="listening", port=session.listen_port())
        status = handle.status()
        if status.is_seeding and not flushing:
            flushing = True
            handle.flush_cache()


def info_hash(path, size, piece_length):
    """The v1 info-hash that libtorrent gives a file; it takes no empty files, so those are put together by hand."""
    name = os.path.basename(path)
    if size == 0:
        info = {b"length": 0, b"name": name.encode(), b"piece length": piece_length, b"pieces": b""}
        return hashlib.sha1(lt.bencode(info)).hexdigest()
    files = lt.file_storage()
    files.add_file(name, size)
    creator = lt.create_torrent(files, piece_length, lt.create_torrent.v1_only)
    lt.set_piece_hashes(creator, os.path.dirname(path))
    return str(lt.torrent_info(creator.generate()).info_hashes().v1)


def main():
    # PR_SET_PDEATHSIG: never outlive the test.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if sys.argv[1] == "transfer":
        transfer(*sys.argv[2:5])
    for path, size, piece_length in json.load(open(sys.argv[2])):
        say(path=path, piece_length=piece_length, info_hash=info_hash(path, size, piece_length))


main()
