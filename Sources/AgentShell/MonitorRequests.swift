internal import AgentCore
internal import QMP
internal import UvLoop

// The machines' words for what a monitor is asked and says, on a real one.

extension Monitor {
    /// - Parameters:
    ///   - incoming: socket of the process that waits for the guest; for `migrate`.
    ///   - limit: see ``send(_:limit:_:)``.
    ///   - reply: called once.
    func send(
        _ request: MonitorRequest, incoming: String = "", limit: Duration?,
        _ reply: @escaping (MonitorReply) -> Void
    ) {
        let commands: [Command]
        switch request {
        case .migrate: commands = [.migrate(uri: "unix:\(incoming)")]
        case .queryMigrate: commands = [.queryMigrate]
        case .queryReadiness: commands = [.queryMigrate, .queryStatus]
        case .stop: commands = [.stop]
        case .cont: commands = [.cont]
        case .contAndLook: commands = [.cont, .queryStatus]
        }
        // Of two replies the second one counts; what a readiness needs of the first is kept.
        var migration: MoveStatus?
        send(commands, limit: limit) { index, result in
            guard index == commands.count - 1 else {
                if case .success(let value) = result {
                    migration = MigrationReply(value)?.moveStatus
                }
                return
            }
            switch result {
            case .failure(.refused(let error)): reply(.refused(error.text))
            case .failure(let failure): reply(.ended(failure.description))
            case .success(let value): reply(MonitorReply(request, value, migration))
            }
        }
    }
}

extension MonitorReply {
    /// - Parameter migration: what came before `value`, if that was asked for.
    init(_ request: MonitorRequest, _ value: JSON, _ migration: MoveStatus?) {
        switch request {
        case .migrate, .stop, .cont: self = .done
        case .queryMigrate:
            // An answer that is none says as little as no answer.
            self = MigrationReply(value).map { .migration($0.moveStatus) } ?? .done
        case .queryReadiness:
            let status = StatusReply(value)
            self = .readiness(
                ContinueReadiness(
                    migration: migration, runstate: status?.state.description,
                    isExecuting: status?.running ?? false))
        case .contAndLook: self = .executing(StatusReply(value)?.running ?? false)
        }
    }
}

extension MigrationReply {
    var moveStatus: MoveStatus { MoveStatus(status.description) }
}

extension MonitorEvent {
    /// - Returns: nil for an event that no hold needs.
    init?(_ event: Event) {
        switch event.kind {
        case .stop: self = .stop
        case .resume: self = .resume
        case .migration(let status): self = .migration(MoveStatus(status.description))
        default: return nil
        }
    }
}
