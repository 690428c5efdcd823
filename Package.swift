// swift-tools-version: 6.1
import PackageDescription

/// Deliberate bugs that can be switched on (Sources/Fleet/Mutant.swift): never in a release build, but for
/// the one of scripts/check-mutants.py.
let mutants: SwiftSetting =
    Context.environment["FERMATA_MUTANTS"] == nil
    ? .define("MUTANTS", .when(configuration: .debug)) : .define("MUTANTS")

/// Settings of every Swift target. C types stay inside the target that imports them.
let settings: [SwiftSetting] = [
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("ExistentialAny"),
    mutants,
]

/// A target that only computes: no Foundation, clock, random source or environment. It logs only to a
/// `Logger` that it is handed.
func pure(
    _ name: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = []
) -> Target {
    .target(name: name, dependencies: dependencies, exclude: exclude, swiftSettings: settings)
}

/// A target that carries out what the pure targets decide.
func shell(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: settings)
}

func tests(
    _ name: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = []
) -> Target {
    .testTarget(
        name: "\(name)Tests",
        dependencies: [.target(name: name)] + dependencies,
        exclude: exclude,
        swiftSettings: settings)
}

let protobuf: Target.Dependency = .product(name: "SwiftProtobuf", package: "swift-protobuf")
let collections: Target.Dependency = .product(
    name: "OrderedCollections", package: "swift-collections")
let grdb: Target.Dependency = .product(name: "GRDB", package: "GRDB.swift")
let yams: Target.Dependency = .product(name: "Yams", package: "Yams")
let mustache: Target.Dependency = .product(name: "Mustache", package: "swift-mustache")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let arguments: Target.Dependency = .product(
    name: "ArgumentParser", package: "swift-argument-parser")

let hummingbird: Target.Dependency = .product(name: "HummingbirdCore", package: "hummingbird")
let nio: [Target.Dependency] = [
    .product(name: "NIOCore", package: "swift-nio"),
    .product(name: "NIOPosix", package: "swift-nio"),
    .product(name: "NIOHTTP1", package: "swift-nio"),
    .product(name: "HTTPTypes", package: "swift-http-types"),
]

let package = Package(
    name: "fermata",
    products: [.executable(name: "fermata", targets: ["fermata"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-protobuf", exact: "1.39.0"),
        .package(url: "https://github.com/apple/swift-collections", exact: "1.6.0"),
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", exact: "1.16.2"),
        .package(url: "https://github.com/groue/GRDB.swift", exact: "7.10.0"),
        .package(url: "https://github.com/hummingbird-project/swift-mustache", exact: "2.1.1"),
        .package(url: "https://github.com/jpsim/Yams", exact: "6.2.2"),
        .package(
            url: "https://github.com/hummingbird-project/hummingbird", exact: "2.28.1", traits: []),
        .package(url: "https://github.com/apple/swift-nio", exact: "2.101.2"),
        .package(url: "https://github.com/apple/swift-http-types", exact: "1.8.0", traits: []),
    ],
    targets: [
        .systemLibrary(
            name: "CUv", pkgConfig: "libuv", providers: [.apt(["libuv1-dev"])]),
        .systemLibrary(
            name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(
            name: "CCurl", pkgConfig: "libcurl",
            providers: [.apt(["libcurl4-openssl-dev"])]),

        pure("Fleet"),
        pure("Edges"),
        pure("Wire", ["Fleet", protobuf]),
        pure("Coordination", ["Fleet", collections]),
        pure("Presentation", ["Fleet"]),
        pure("Notices", ["Fleet", "Edges", "Wire", "Presentation", "QMP", mustache]),
        pure("LogCore"),
        pure("QMP"),
        pure("EtcdLog", ["Edges", "Fleet", "LogCore", "QMP"]),
        pure(
            "Simulation",
            [
                "Edges", "Fleet", "Wire", "Coordination", "Presentation", "LogCore", "EtcdLog",
                "SessionCore", "LeaderCore", "AgentCore", "Notices", logging,
            ], exclude: ["README.md"]),
        pure("AgentCore", ["Fleet"]),
        pure("SessionCore", ["Fleet", "Wire", "Edges", logging]),
        pure("HostConfiguration", ["Fleet", "Notices", yams]),

        pure(
            "LeaderCore",
            [
                "Fleet", "Edges", "Wire", "Coordination", "Presentation", "LogCore",
                "SessionCore", logging, protobuf,
            ]),

        shell("UvLoop", ["Edges", "CUv", "COpenSSL", "CCurl"]),
        shell("LogStore", ["Fleet", "LogCore", "EtcdLog", "UvLoop", grdb]),
        shell("SessionShell", ["Fleet", "Wire", "Edges", "SessionCore", "UvLoop", logging]),
        shell(
            "LeaderShell",
            [
                "Fleet", "Wire", "Coordination", "Presentation", "LogCore", "LeaderCore",
                "UvLoop", "Edges", "SessionCore", "SessionShell", logging,
            ]),
        shell(
            "AgentShell",
            [
                "Fleet", "Edges", "Wire", "AgentCore", "QMP", "HostConfiguration", "UvLoop",
                "SessionCore", "SessionShell", logging,
            ]),
        shell("NoticeServer", ["Fleet", "Notices", hummingbird, logging] + nio),
        shell(
            "NotifierShell",
            [
                "Fleet", "Edges", "Wire", "Presentation", "Notices", "NoticeServer", "UvLoop",
                "SessionCore", "SessionShell", grdb, logging,
            ]),
        shell("SimulationShell", ["Fleet", "Simulation", arguments]),
        .executableTarget(
            name: "fermata",
            dependencies: [
                "Fleet", "Wire", "Presentation", "HostConfiguration", "AgentCore", "UvLoop",
                "SessionCore", "SessionShell", "LogCore", "EtcdLog", "LogStore", "LeaderCore",
                "LeaderShell", "AgentShell",
                "Notices", "NotifierShell", "SimulationShell", arguments, logging,
            ],
            swiftSettings: settings),

        // `make bench-wire`: the codec, sessions and handshakes, measured.
        .executableTarget(
            name: "wire-bench",
            dependencies: ["Fleet", "Wire", "UvLoop", "SessionCore", "SessionShell", logging],
            path: "Benchmarks/Wire", swiftSettings: settings),

        // `make bench-takeover`, `make bench-locks`: many hosts that only say they have guests.
        .executableTarget(
            name: "hosts-bench",
            dependencies: ["Fleet", "Wire", "UvLoop", "SessionCore", "SessionShell", logging],
            path: "Benchmarks/Hosts", swiftSettings: settings),

        // `make bench-events`: the web server with 10,000 guests that poll.
        .executableTarget(
            name: "events-bench", dependencies: ["Fleet", "Notices", "NoticeServer", logging],
            path: "Benchmarks/Events", exclude: ["poller.c"], swiftSettings: settings),

        // `make bench-snapshot`: snapshots of a large state beside commits, measured.
        .executableTarget(
            name: "snapshot-bench",
            dependencies: [
                "Fleet", "Coordination", "LogCore", "LogStore", "LeaderCore", "LeaderShell",
                "UvLoop", logging,
            ],
            path: "Benchmarks/Snapshot", swiftSettings: settings),

        // Runs the built executable; nothing imports it.
        .testTarget(name: "CommandLineTests", swiftSettings: settings),
        tests("Coordination", ["Fleet"], exclude: ["Scenarios"]),
        tests("Wire", ["Fleet", protobuf]),
        tests("Presentation", ["Fleet"]),
        tests("QMP"),
        tests("AgentCore", ["Fleet"]),
        tests("HostConfiguration", ["Fleet", "Notices"]),
        tests("UvLoop", ["Edges", "COpenSSL"]),
        tests(
            "Simulation", ["AgentCore", "Edges", "Fleet", "Wire"], exclude: ["Regressions.txt"]),
        tests("EtcdLog", ["Edges", "LogCore", "Simulation"]),
        tests("LogStore", ["LogCore", "EtcdLog", "Simulation", "UvLoop", grdb]),
        tests("SessionCore", ["Fleet", "Wire", "Edges", logging]),
        tests("SessionShell", ["Fleet", "Wire", "Edges", "SessionCore", "UvLoop", logging]),
        tests(
            "LeaderCore",
            ["Fleet", "Edges", "Wire", "Coordination", "LogCore", "LogStore", "UvLoop", logging]),
        tests(
            "LeaderShell",
            [
                "Fleet", "Wire", "Coordination", "LogCore", "LogStore", "LeaderCore", "UvLoop",
                "SessionCore",
                "SessionShell", logging,
            ]),
        // `make mutants`: the simulator without the rest of Fermata, which takes long to build.
        .executableTarget(
            name: "Simulator", dependencies: ["SimulationShell", arguments],
            path: "Tests/Simulator", swiftSettings: settings),
        // An agent without a leader, for tests that kill it.
        .executableTarget(
            name: "AgentProbe",
            dependencies: [
                "AgentShell", "Fleet", "HostConfiguration", "UvLoop", "Wire", logging,
            ],
            path: "Tests/AgentProbe", swiftSettings: settings),
        tests(
            "AgentShell",
            ["AgentProbe", "AgentCore", "Fleet", "HostConfiguration", "QMP", "UvLoop", "Wire"]),
        tests("Notices", ["Edges", "Fleet", "Presentation", "Wire"], exclude: ["Bulletins"]),
        tests(
            "NoticeServer",
            [
                "Fleet", "Notices", logging, .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOEmbedded", package: "swift-nio"),
            ]),
        tests(
            "NotifierShell",
            [
                "Fleet", "Edges", "Wire", "Presentation", "Notices", "NoticeServer", "SessionCore",
                "UvLoop", grdb,
                logging,
            ]),
    ]
)
