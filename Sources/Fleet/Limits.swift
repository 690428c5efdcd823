/// Every limit of Fermata in one place, each with its reason.
public enum Limits {
    /// Fits a DNS label, and three of them fit a Unix socket path (107 bytes).
    public static let nameByteCountMax = 63
    /// A set has this many update domains unless it says otherwise: what operators know from clouds.
    public static let updateDomainsDefault = 5
    /// As in the clouds; more would make a rollout longer without making a set safer.
    public static let updateDomainsMax = 20
    /// The promise: no guest is held longer, whatever fails.
    public static let deadlineMillisecondsMax: UInt32 = 30_000
    /// Below this there is no room for undo and resume.
    public static let deadlineMillisecondsMin: UInt32 = 500
    /// Steps in flight over the whole fleet, unless the policy says otherwise.
    public static let parallelismDefault: UInt32 = 8
    /// More steps than this in flight and a bad release would hurt too many before it is noticed.
    public static let parallelismMax: UInt32 = 1_000
    /// Guests look once a second: a shorter notice could be missed by all of them.
    public static let noticeMillisecondsMin: UInt32 = 1_000
    /// A week: fixes for what is disclosed must not wait longer, and who needs more time plans a window.
    public static let noticeMillisecondsMax: UInt32 = 7 * 86_400_000
    /// A noticed step that could start, but for its own host or guest, keeps its sets closed to others
    /// this long beyond its notice time: a host that restarts is back by then, one that is lost
    /// must not stop the others.
    public static let noticeOverdueMillisecondsMax: Int64 = 300_000
    /// A notice whose end is later than the leader's clock allows by more than this was given by a clock
    /// that was ahead, and is given anew: more than servers with a time daemon differ by, and
    /// little to wait for.
    public static let noticeClockErrorMillisecondsMax: Int64 = 60_000
    /// Steps that are noticed in one turn of the scheduler: a batch of the log stays small.
    public static let noticesPerRoundMax = 1_000
    /// The years 1 to 9999, in microseconds since 1970: RFC 3339 cannot write others. Sums of two fit an
    /// Int64 many times over.
    public static let timeMicroseconds: ClosedRange<Int64> =
        -62_135_596_800_000_000...253_402_300_799_999_999
    /// Tokens come from counting grants, so none is ever near this.
    public static let tokenMax = UInt64(Int64.max)
    /// A host may have accepted tokens that the leader knows nothing of, when an old back-up was
    /// restored. More grants than this cannot have been lost: its number is wrong, and would use up the tokens of all.
    public static let tokensLostMax: UInt64 = 1_000_000_000
    /// Sorts of host software of which a host says the version.
    public static let hostSoftwareMax = 256
    /// Words for what an agent can do, known ones and those of later versions.
    public static let agentAbilitiesMax = 64
    /// The holder of the delivery lease is given this long to come back: longer than a restart of it
    /// or of the leader, short enough that people hear of their holds in time.
    public static let deliveryLeaseMilliseconds: UInt32 = 10_000
    /// Sinks of all notifiers together, of which the state keeps a number each.
    public static let sinksMax = 256
    /// Addresses of one guest: a few networks with both versions of IP.
    public static let guestAddressesMax = 32
    /// A release's command outside a hold (prepare): a package mirror may be slow.
    public static let commandMillisecondsMax: UInt32 = 3_600_000
    /// Steps whose commands' output is kept on a host: the last few weeks of a busy one.
    public static let stepOutputsMax = 50
    /// Of a hold with commands, what is left beside their limits: to stop the guests, to kill what
    /// overruns, to resume and confirm.
    public static let holdReserveMilliseconds: UInt32 = 2_000
    /// Arguments, and variables, of a command; the kernel takes more, a directive should stay small.
    public static let commandWordsMax = 64
    /// Phases of a step with the times at which it reached them: there are about ten.
    public static let stepPhasesMax = 64
    /// Hosts that one rollout names one by one; they fit a message with their longest names.
    public static let selectionHostsMax = 60_000
    /// Guests of one pause group; the agent's guard keeps two monitors open for each.
    public static let stepGuestsMax = 64
    /// A waiting step lets this many later ones pass before it closes the door to them.
    public static let bypassMax: UInt32 = 8
    /// A frame before the session is open: a hello fits many times over. What TLS itself takes from a peer
    /// before it is authenticated is bounded in `HandshakeLimit`.
    public static let frameByteCountBeforeHelloMax = 4 * 1024
    /// A frame after the hello: large enough for throughput, small enough not to block others.
    public static let frameByteCountMax = 1024 * 1024
    /// A message put together from chunks, of whatever kind: the largest answer to a query or page of
    /// events fits. Only servers send such.
    public static let messageByteCountMax = 64 * 1024 * 1024
    /// A host's report: 8 KiB for each of its guests, so room for all addresses and a long reason.
    public static let hostReportByteCountMax = 32 * 1024 * 1024
    /// What is about one step, release or choice of hosts: a release with four commands of 64 words of 4 KiB
    /// and 64 variables has less than 2 MiB, 64 holds with all their texts one.
    public static let stepMessageByteCountMax = 4 * 1024 * 1024
    /// Every other message: some have a few texts of 4 KiB, most a few numbers.
    public static let smallMessageByteCountMax = 1024 * 1024
    /// Bytes that wait for a peer that does not read before its session is closed.
    public static let sessionQueueByteCountMax = 16 * 1024 * 1024
    /// Requests of one session that wait for their answer before no more are read: what a peer asks
    /// for costs us memory until it is answered, and TCP then slows the peer down.
    public static let unansweredRequestsMax = 64
    /// The same for what a session asks for without waiting for an answer, such as acknowledgements: it waits
    /// for the log, which may be slow.
    public static let unfinishedWorkMax = 64
    /// Connections from one address (IPv6: one /64) that are no sessions yet: a rack behind one
    /// address may reconnect at once, a flood from it takes no more than this.
    public static let halfOpenPerAddressMax = 128
    /// The same from all addresses together: at 46 KiB each, the most a stranger costs, 92 MiB.
    public static let halfOpenMax = 2_048
    /// Sessions from one address: many operators behind one gateway fit.
    public static let sessionsPerAddressMax = 1_024
    /// Handshakes that are carried out before the loop looks at its sessions again, in milliseconds:
    /// a storm of reconnects must not delay the reports of hosts that are in.
    public static let handshakeSliceMilliseconds: Int64 = 5
    /// Peers that say they are urgent (guests held, a report to deliver) go first, but every fifth
    /// turn is another's, so that nobody waits for ever behind those who only say so.
    public static let urgentTurnsMax = 4
    /// First pauses of an agent with guests held or a report to deliver stay below this.
    public static let urgentReconnectMillisecondsMax: UInt32 = 500
    /// Refusals of one kind that are logged one by one each second; the rest as a number.
    public static let refusalLogLinesPerSecond = 10
    /// How long before its end a certificate is warned of: time to renew it without haste.
    public static let certificateWarningMicroseconds: Int64 = 30 * 86_400 * 1_000_000
    /// Certificates of peers that a status shows: the first of them say what has to be done.
    public static let certificateViewsMax = 1_000
    /// How long an operator cannot open the set of a host that was at work and has fallen silent, counted from
    /// the end of its session or the start of the term: longer than a reconnect and a deadline together.
    public static let lockReleaseMillisecondsMin: Int64 = 60_000
    /// Silence after which a ping is sent, in milliseconds.
    public static let keepaliveMilliseconds: UInt32 = 1_000
    /// Silence after which a peer is taken for dead, in milliseconds.
    public static let peerSilenceMillisecondsMax: UInt32 = 3_000
    /// TCP connect, TLS handshake and hello together, in milliseconds.
    public static let handshakeMillisecondsMax: UInt32 = 5_000
    /// First pause before a reconnect; doubles up to the maximum, each with jitter.
    public static let reconnectMillisecondsMin: UInt32 = 100
    public static let reconnectMillisecondsMax: UInt32 = 5_000
    /// Guests of one host: a report of them fits a message, and pids and descriptors suffice.
    public static let hostGuestsMax = 4_096
    /// Events kept while no notifier is known: about a month of a busy small fleet.
    public static let eventsWithoutNotifierMax = 100_000
    /// A notifier that is further behind is warned of: more than is ever kept without one, so it makes
    /// state, snapshots and back-ups larger than they need be.
    public static let notifierEventsBehindMax = UInt64(eventsWithoutNotifierMax)
    /// How long a new leader forgets no notifier: one that lives is back by then, as its longest
    /// pause before a reconnect is 5 s.
    public static let notifierReturnMilliseconds: Int64 = 10_000
    /// Events kept although every notifier has them: whoever begins to watch a rollout a moment after
    /// its start still sees how it began.
    public static let eventsForWatchersMin = 1_000
    /// Facts after which a snapshot is written at the earliest, so that a start reads little. A large
    /// state waits longer, see ``snapshotFactBytesDivisor``.
    public static let snapshotFactsInterval: UInt64 = 10_000
    /// The facts since the last snapshot must have at least its bytes divided by this: writing
    /// snapshots then costs at most this many times what writing the facts does, and a start reads at
    /// most twice the snapshot. Standbys have read all that already; three members of etcd write
    /// each byte.
    public static let snapshotFactBytesDivisor = 1
    /// One piece of a snapshot: encoded and written in some milliseconds, while the loop serves nobody
    /// else, and well below the 1.5 MB that etcd takes in one request.
    public static let snapshotChunkByteCount = 256 * 1024
    /// Pause after a snapshot that could not be written: the log goes on growing meanwhile, which is
    /// harmless for minutes.
    public static let snapshotRetryMilliseconds: UInt32 = 60_000
    /// A reason given by a person or a program; longer ones are cut.
    public static let reasonByteCountMax = 4_096
}
