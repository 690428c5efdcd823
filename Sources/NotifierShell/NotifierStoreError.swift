/// Why the notifier's database cannot be used. Every description says what to do.
public enum NotifierStoreError: Error, Hashable, Sendable, CustomStringConvertible {
    /// There is no file; only when opened for reading.
    case missing(path: String)
    /// The file is not a database, or its pages do not fit together.
    case damaged(path: String, detail: String)
    /// A database, but not of a notifier.
    case foreign(path: String)
    /// Written by a newer version of Fermata.
    case newer(path: String)
    /// A reader cannot bring it up to date.
    case older(path: String)
    /// It follows another cluster.
    case otherCluster(path: String, cluster: String, wanted: String)
    /// The operating system or SQLite refused; `detail` has its words.
    case failed(path: String, operation: String, detail: String)

    public var description: String {
        switch self {
        case .missing(let path): "there is no notifier database at \(path)"
        case .damaged(let path, let detail): "the notifier database \(path) is damaged: \(detail)"
        case .foreign(let path): "\(path) is a database, but not one of a notifier"
        case .older(let path):
            "the notifier database \(path) was written by an older version of Fermata"
        case .newer(let path):
            "the notifier database \(path) was written by a newer version of Fermata"
        case .otherCluster(let path, let cluster, let wanted):
            "the notifier database \(path) belongs to cluster \(cluster), not to \(wanted)"
        case .failed(let path, let operation, let detail):
            "cannot \(operation) the notifier database \(path): \(detail)"
        }
    }

    /// What to do next.
    public var advice: String {
        switch self {
        case .missing:
            "Give the file that `fermata notifier --database` writes, with --database or "
                + "FERMATA_NOTIFIER_DATABASE."
        case .damaged:
            "Restore it from a backup, or move it away together with its -wal and -shm files and "
                + "start the notifier again: the server sends again what it still keeps."
        case .foreign: "Give another path with --database."
        case .older: "Start this version's notifier once: it brings the database up to date."
        case .newer: "Run the newer fermata, or give another path with --database."
        case .otherCluster: "Use one database for each cluster."
        case .failed: "Check that the directory exists, is writable and has room."
        }
    }
}
