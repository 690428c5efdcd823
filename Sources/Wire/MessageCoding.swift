import Fleet
import SwiftProtobuf

extension Message {
    /// The message as a frame's body: Protocol Buffers, in the order of field numbers.
    public func encodedBody() -> [UInt8] {
        do {
            return try schemaMessage.serializedBytes()
        } catch {
            // Only a missing proto2 required field or 2 GiB of body can fail; we have neither.
            preconditionFailure("cannot encode \(kind): \(error)")
        }
    }

    /// Reads the body of a frame, or of a whole row of chunks, of the given kind.
    ///
    /// - Throws: ``ConversionError`` with the field at fault. Unknown fields are skipped.
    public init(kind: MessageKind, body: [UInt8]) throws(ConversionError) {
        do {
            try checkBounds(kind, body)
            self = try Message.decode(kind, body)
        } catch {
            throw error.within("\(kind)")
        }
    }

    private static func decode(
        _ kind: MessageKind, _ body: [UInt8]
    ) throws(ConversionError) -> Message {
        switch kind {
        case .hello: .hello(try Hello(wire: parse(body)))
        case .helloAccepted: .helloAccepted(try HelloAccepted(wire: parse(body)))
        case .close: try close(parse(body))
        case .ping: .ping(nonce: try parse(body, as: PBPing.self).nonce)
        case .pong: .pong(nonce: try parse(body, as: PBPong.self).nonce)
        case .hostReport: .hostReport(try HostReport(wire: parse(body)))
        case .hostReportCommitted:
            .hostReportCommitted(index: try parse(body, as: PBHostReportCommitted.self).index)
        case .directive: .directive(try Directive(wire: parse(body)))
        case .directiveAnswer: try directiveAnswer(parse(body))
        case .stepProgress: .stepProgress(try StepProgress(wire: parse(body)))
        case .stepReport: .stepReport(try StepReport(wire: parse(body)))
        case .stepReportCommitted: try stepReportCommitted(parse(body))
        case .command: .command(try OperatorCommand(wire: parse(body)))
        case .commandAccepted: try commandAccepted(parse(body))
        case .refused: .refused(try Refusal(wire: parse(body)))
        case .query: try query(parse(body))
        case .queryResult: .queryResult(try OperatorQueryResult(wire: parse(body)))
        case .followEvents: try followEvents(parse(body))
        case .eventBatch: try eventBatch(parse(body))
        case .acknowledgeEvents:
            .acknowledgeEvents(sequence: try parse(body, as: PBAcknowledgeEvents.self).sequence)
        case .claimDeliveries:
            try checked(parse(body, as: PBClaimDeliveries.self), .claimDeliveries)
        case .deliveryLease: .deliveryLease(try DeliveryLease(wire: parse(body)))
        case .reportDelivered: try reportDelivered(parse(body))
        case .giveUpDeliveries:
            try checked(parse(body, as: PBGiveUpDeliveries.self), .giveUpDeliveries)
        }
    }

    private static func parse<Body: SwiftProtobuf.Message>(
        _ body: [UInt8], as _: Body.Type = Body.self
    ) throws(ConversionError) -> Body {
        do { return try Body(serializedBytes: body) } catch {
            throw ConversionError(.unreadable, field: "")
        }
    }

    private static func close(_ wire: PBClose) -> Message {
        // A code of a later version is still a close: the reason says the rest.
        .close(CloseCode(rawValue: wire.code.rawValue) ?? .internal, reason: cutText(wire.reason))
    }

    private static func directiveAnswer(
        _ wire: PBDirectiveAnswer
    ) throws(ConversionError) -> Message {
        .directiveAnswer(
            step: try required(wire.hasStep, wire.step, "step", StepID.init(wire:)),
            token: try checkedToken(wire.token, "token"),
            answer: try DirectiveAnswer(wire: wire.answer))
    }

    private static func stepReportCommitted(
        _ wire: PBStepReportCommitted
    ) throws(ConversionError) -> Message {
        .stepReportCommitted(
            step: try required(wire.hasStep, wire.step, "step", StepID.init(wire:)),
            token: try checkedToken(wire.token, "token"))
    }

    private static func query(_ wire: PBQuery) throws(ConversionError) -> Message {
        .query(try OperatorQuery(wire: wire), stale: wire.stale)
    }

    private static func commandAccepted(
        _ wire: PBCommandAccepted
    ) throws(ConversionError) -> Message {
        .commandAccepted(
            index: wire.index,
            rollout: wire.hasRollout ? try checkedRollout(wire.rollout, "rollout") : nil)
    }

    private static func followEvents(_ wire: PBFollowEvents) -> Message {
        .followEvents(afterSequence: wire.afterSequence, progress: wire.progress)
    }

    /// A message whose body says nothing, and could be read.
    private static func checked(
        _: some SwiftProtobuf.Message, _ message: Message
    ) throws(ConversionError) -> Message { message }

    private static func reportDelivered(
        _ wire: PBReportDelivered
    ) throws(ConversionError) -> Message {
        guard wire.number > 0 else { throw outOfRange(0, 1, Int64.max, "number") }
        return .reportDelivered(
            number: wire.number, sink: try checkedSink(wire.sink, "sink"),
            sequence: wire.sequence)
    }

    private static func eventBatch(_ wire: PBEventBatch) throws(ConversionError) -> Message {
        .eventBatch(
            try list(wire.events, "events", FleetEvent.init(wire:)),
            lastSequence: wire.lastSequence)
    }

    var schemaMessage: any SwiftProtobuf.Message {
        switch self {
        case .hello(let hello): return hello.wire
        case .helloAccepted(let accepted): return accepted.wire
        case .close(let code, let reason):
            return PBClose.with {
                $0.code = code.wire
                $0.reason = cutText(reason)
            }
        case .ping(let nonce): return PBPing.with { $0.nonce = nonce }
        case .pong(let nonce): return PBPong.with { $0.nonce = nonce }
        case .hostReport(let report): return report.wire
        case .hostReportCommitted(let index):
            return PBHostReportCommitted.with { $0.index = index }
        case .directive(let directive): return directive.wire
        case .directiveAnswer(let step, let token, let answer):
            return PBDirectiveAnswer.with {
                $0.step = step.wire
                $0.token = token.number
                $0.answer = answer.wire
            }
        case .stepProgress(let progress): return progress.wire
        case .stepReport(let report): return report.wire
        case .stepReportCommitted(let step, let token):
            return PBStepReportCommitted.with {
                $0.step = step.wire
                $0.token = token.number
            }
        case .command(let command): return command.wire
        case .commandAccepted(let index, let rollout):
            return PBCommandAccepted.with {
                $0.index = index
                if let rollout { $0.rollout = rollout.number }
            }
        case .refused(let refusal): return refusal.wire
        case .query(let query, let stale):
            var wire = query.wire
            wire.stale = stale
            return wire
        case .queryResult(let result): return result.wire
        case .followEvents(let sequence, let progress):
            return PBFollowEvents.with {
                $0.afterSequence = sequence
                $0.progress = progress
            }
        case .eventBatch(let events, let lastSequence):
            return PBEventBatch.with {
                $0.events = events.map(\.wire)
                $0.lastSequence = lastSequence
            }
        case .acknowledgeEvents(let sequence):
            return PBAcknowledgeEvents.with { $0.sequence = sequence }
        case .claimDeliveries: return PBClaimDeliveries()
        case .deliveryLease(let lease): return lease.wire
        case .reportDelivered(let number, let sink, let sequence):
            return PBReportDelivered.with {
                $0.number = number
                $0.sink = sink
                $0.sequence = sequence
            }
        case .giveUpDeliveries: return PBGiveUpDeliveries()
        }
    }
}
