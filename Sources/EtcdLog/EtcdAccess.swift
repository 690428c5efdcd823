/// An etcd cluster that can be asked: over the JSON gateway of its members, or a simulated one.
///
/// Whatever is asked may be asked twice, and the first may even be carried out long after the second
/// (a member that slept). Every completion comes once and later, never inside the call.
public protocol EtcdAccess: AnyObject {
    func transaction(
        _ transaction: EtcdTransaction,
        _ completion: @escaping (Result<EtcdTransactionAnswer, EtcdFailure>) -> Void)

    /// - Parameters:
    ///   - operation: a get or a range.
    ///   - revision: as of which it is read; 0 for a linearizable read of now.
    func range(
        _ operation: EtcdOperation, revision: Int64,
        _ completion: @escaping (Result<EtcdRange, EtcdFailure>) -> Void)

    /// Forgets what was before `revision`.
    func compact(
        _ revision: Int64, _ completion: @escaping (Result<Void, EtcdFailure>) -> Void)

    /// Of the member that is asked: its database's size and quota in bytes, and the alarms of the cluster.
    func health(_ completion: @escaping (Result<EtcdHealth, EtcdFailure>) -> Void)

    /// Follows what is put from `from` on and below `to`; not what is deleted.
    ///
    /// - Parameters:
    ///   - revision: the first that is wanted.
    ///   - onLine: gets what comes.
    ///   - onEnd: called once, unless it is cancelled. The next member is asked from then on.
    func watch(
        from: String, to: String, revision: Int64, onLine: @escaping (EtcdWatchLine) -> Void,
        onEnd: @escaping (EtcdFailure) -> Void
    ) -> any EtcdWatch
}

/// A watch under way.
public protocol EtcdWatch: AnyObject {
    /// Ends it; nothing is told any more. Harmless when it is over.
    func cancel()
}

extension EtcdAccess {
    /// Reads as of now, after all that is committed.
    func range(
        _ operation: EtcdOperation,
        _ completion: @escaping (Result<EtcdRange, EtcdFailure>) -> Void
    ) { range(operation, revision: 0, completion) }
}
