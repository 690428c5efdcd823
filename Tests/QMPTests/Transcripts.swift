// Recorded from QEMU 7.2.22 (Debian 12), line by line without their ends (CR LF for the monitor, LF
// for the guest agent). swift-format-ignore-file: the lines are QEMU's.

/// Monitor of the process that hands its guest over. Ids 1 … 13.
let oldMonitorTranscript: [String] = [
    ##"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18+b3"}, "capabilities": ["oob"]}}"##,
    ##"{"return": {}, "id": 0}"##,
    ##"{"return": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18+b3"}, "id": 1}"##,
    ##"{"return": {"status": "prelaunch", "singlestep": false, "running": false}, "id": 2}"##,
    ##"{"return": [{"thread-id": 13907, "props": {"core-id": 0, "thread-id": 0, "socket-id": 0}, "qom-path": "/machine/unattached/device[0]", "cpu-index": 0, "target": "x86_64"}], "id": 3}"##,
    ##"{"return": [{"io-status": "ok", "device": "d", "locked": false, "removable": false, "inserted": {"iops_rd": 0, "detect_zeroes": "off", "image": {"virtual-size": 1048576, "filename": "/disk.raw", "format": "raw", "actual-size": 0, "dirty-flag": false}, "iops_wr": 0, "ro": false, "node-name": "#block166", "backing_file_depth": 0, "drv": "raw", "iops": 0, "bps_wr": 0, "write_threshold": 0, "encrypted": false, "bps": 0, "bps_rd": 0, "cache": {"no-flush": false, "direct": false, "writeback": true}, "file": "/disk.raw"}, "qdev": "/machine/peripheral-anon/device[0]/virtio-backend", "type": "unknown"}], "id": 4}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 216702}, "event": "RESUME"}"##,
    ##"{"return": {}, "id": 5}"##,
    ##"{"id": 6, "error": {"class": "CommandNotFound", "desc": "The command no-such-command has not been found"}}"##,
    ##"{"return": "unknown command: 'info \u00E9\u4E2D'\r\n", "id": 7}"##,
    ##"{"return": {}, "id": 8}"##,
    ##"{"return": {}, "id": 9}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 289298}, "event": "STOP"}"##,
    ##"{"return": {}, "id": 10}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 289906}, "event": "MIGRATION", "data": {"status": "setup"}}"##,
    ##"{"return": {}, "id": 11}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 293392}, "event": "MIGRATION_PASS", "data": {"pass": 1}}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 293635}, "event": "MIGRATION", "data": {"status": "active"}}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 294486}, "event": "MIGRATION_PASS", "data": {"pass": 2}}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 298681}, "event": "MIGRATION", "data": {"status": "completed"}}"##,
    ##"{"return": {"status": "completed", "setup-time": 1, "downtime": 0, "total-time": 0, "ram": {"total": 532480, "postcopy-requests": 0, "dirty-sync-count": 2, "multifd-bytes": 0, "pages-per-second": 0, "downtime-bytes": 210100, "page-size": 4096, "remaining": 0, "postcopy-bytes": 0, "mbps": 0, "transferred": 210100, "dirty-sync-missed-zero-copy": 0, "precopy-bytes": 0, "duplicate": 79, "dirty-pages-rate": 0, "skipped": 0, "normal-bytes": 208896, "normal": 51}}, "id": 12}"##,
    ##"{"return": {"status": "finish-migrate", "singlestep": false, "running": false}, "id": 13}"##,
]

/// Monitor of the process that takes it over. Ids 1 … 12; ends with `quit`.
let newMonitorTranscript: [String] = [
    ##"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18+b3"}, "capabilities": ["oob"]}}"##,
    ##"{"return": {}, "id": 0}"##,
    ##"{"return": {}, "id": 1}"##,
    ##"{"return": {"status": "inmigrate", "singlestep": false, "running": false}, "id": 2}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 285691}, "event": "MIGRATION", "data": {"status": "setup"}}"##,
    ##"{"return": {}, "id": 3}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 292911}, "event": "MIGRATION", "data": {"status": "active"}}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 299791}, "event": "MIGRATION", "data": {"status": "completed"}}"##,
    ##"{"return": {"status": "paused", "singlestep": false, "running": false}, "id": 4}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 305218}, "event": "RESUME"}"##,
    ##"{"return": {}, "id": 5}"##,
    ##"{"return": {"status": "running", "singlestep": false, "running": true}, "id": 6}"##,
    ##"{"return": {"status": "completed"}, "id": 7}"##,
    ##"{"return": {}, "id": 8}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 309601}, "event": "STOP"}"##,
    ##"{"return": {}, "id": 9}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 310266}, "event": "RESUME"}"##,
    ##"{"return": {}, "id": 10}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 610467}, "event": "POWERDOWN"}"##,
    ##"{"return": {}, "id": 11}"##,
    ##"{"timestamp": {"seconds": 1795475673, "microseconds": 610739}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}"##,
    ##"{"return": {}, "id": 12}"##,
]
