// What the agent keeps of steps, so that a token is never accepted twice and a report never lost.
//
//   accepted              the highest token, and the step in flight with what it began with
//   reports/STEP-tTOKEN   one file for each report that the leader has not committed
//
// All of it is fsynced, and none of it during a hold. In which order it is written, and what counts
// after a crash in between, is in AgentCore/AgentMachine.swift.

internal import AgentCore
internal import Fleet
internal import QMP
internal import UvLoop
internal import Wire

struct StepStore {
    let paths: HostPaths

    /// What the three kinds of file say; what of it counts is for the ``AgentMachine``.
    func load() throws(AgentError) -> AgentRecords {
        var contents = AgentRecords()
        if Files.exists(path: paths.accepted) {
            (contents.acceptedToken, contents.inFlight) = try loadAccepted()
        }
        for name in ((try? Files.list(path: paths.reports)) ?? []).sorted()
        where !name.hasSuffix(".new") {
            contents.reports.append(try loadReport("\(paths.reports)/\(name)"))
        }
        return contents
    }

    /// Durable before the directive has any effect.
    func keep(acceptedToken: Token, inFlight: AcceptedStep?) throws(UvError) {
        var members = [JSON.Member("token", .string("\(acceptedToken)"))]
        if let record = inFlight {
            members += [
                JSON.Member(
                    "directive", .string(hex(Message.directive(record.directive).encodedBody()))),
                JSON.Member("acceptedAt", .integer(record.acceptedAt.microseconds)),
                JSON.Member("bootID", .string(record.bootID)),
                JSON.Member(
                    "guests",
                    .array(
                        record.guests.map {
                            [
                                "id": .string($0.plan.id.rawValue),
                                "hypervisor": .string($0.plan.hypervisorBefore),
                                "generation": .integer(Int64($0.oldGeneration)),
                            ]
                        })),
            ]
        }
        try Files.writeAtomically(
            path: paths.accepted, bytes: JSON.object(members).bytes, durable: true)
    }

    func keep(_ report: StepReport) throws(UvError) {
        try Files.writeAtomically(
            path: path(report.step, report.token), bytes: Message.stepReport(report).encodedBody(),
            durable: true)
    }

    func forget(step: StepID, token: Token) {
        try? Files.remove(path: path(step, token))
    }

    private func path(_ step: StepID, _ token: Token) -> String {
        "\(paths.reports)/\(step)-t\(token)"
    }

    private func loadAccepted() throws(AgentError) -> (Token, AcceptedStep?) {
        let path = paths.accepted
        do {
            let bytes = try Files.read(path: path, byteCountMax: 8 << 20)
            let value = try JSON.parse(bytes, byteCountMax: 8 << 20)
            guard let token = value["token"]?.string.flatMap({ UInt64($0) }) else {
                throw AgentError.state(path: path, reason: "it has no token")
            }
            guard let text = value["directive"]?.string else { return (Token(token), nil) }
            guard let body = unhex(text),
                case .directive(let directive) = try Message(kind: .directive, body: body),
                let acceptedAt = value["acceptedAt"]?.integer, let bootID = value["bootID"]?.string
            else { throw AgentError.state(path: path, reason: "the step in it is not whole") }
            let guests = (value["guests"]?.array ?? []).compactMap { entry -> AcceptedStep.Guest? in
                guard let id = entry["id"]?.string.flatMap({ GuestID($0) }),
                    let version = entry["hypervisor"]?.string,
                    let generation = entry["generation"]?.integer
                else { return nil }
                return AcceptedStep.Guest(
                    plan: GuestPlan(id: id, hypervisorBefore: version),
                    oldGeneration: Int(clamping: generation))
            }
            guard guests.map(\.plan.id) == directive.guests else {
                throw AgentError.state(path: path, reason: "its guests are not the directive's")
            }
            return (
                Token(token),
                AcceptedStep(
                    directive: directive, acceptedAt: Timestamp(microseconds: acceptedAt),
                    bootID: bootID, guests: guests)
            )
        } catch let error as AgentError {
            throw error
        } catch { throw .state(path: path, reason: "\(error)") }
    }

    private func loadReport(_ path: String) throws(AgentError) -> StepReport {
        do {
            let bytes = try Files.read(path: path, byteCountMax: 8 << 20)
            guard case .stepReport(let report) = try Message(kind: .stepReport, body: bytes) else {
                throw AgentError.state(path: path, reason: "it is no report")
            }
            return report
        } catch let error as AgentError {
            throw error
        } catch { throw .state(path: path, reason: "\(error)") }
    }
}

private func hex(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    text.reserveCapacity(bytes.count * 2)
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}

private func unhex(_ text: String) -> [UInt8]? {
    let digits = text.utf8.map { UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 ? $0 - 48 : $0 &- 87 }
    guard digits.count.isMultiple(of: 2), digits.allSatisfy({ $0 < 16 }) else { return nil }
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}
