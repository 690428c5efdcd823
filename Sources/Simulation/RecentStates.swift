// What the log's newest states were, so that a server that is behind can be held against them, too.

import Coordination

struct RecentStates {
    /// Servers that are further behind than so many facts are not compared.
    static let count: UInt64 = 256
    /// Only looked up. Copies of a state share what has not changed between them.
    private var states: [UInt64: FleetState] = [:]

    mutating func keep(_ state: FleetState) {
        states[state.index] = state
        if state.index > Self.count { states.removeValue(forKey: state.index - Self.count) }
    }

    /// - Returns: nil if it is not kept (any more).
    func state(at index: UInt64) -> FleetState? { states[index] }
}
