// swift-tools-version: 6.1
// The fuzz targets: a package of its own, so that the ordinary build does not know of them. The
// modules under test are symbolic links to ../Sources, built here with the sanitizers; only what
// they import is fetched. Built and run by `scripts/fuzz.sh`.
import PackageDescription

let settings: [SwiftSetting] = [
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("ExistentialAny"),
]

/// Coverage guides the fuzzer through the code under test only (and, by a flag of scripts/fuzz.sh,
/// through libyaml): not through the harness, SwiftProtobuf and the Swift part of Yams. Without
/// `trace-cmp`, which costs a fifth of the speed: the dictionaries have what it would find.
let coverage: SwiftSetting = .unsafeFlags([
    "-sanitize-coverage=edge,inline-8bit-counters,pc-table"
])

func tested(
    _ name: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = []
) -> Target {
    .target(
        name: name, dependencies: dependencies, exclude: exclude,
        swiftSettings: settings + [coverage])
}

func fuzzer(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .executableTarget(
        name: name, dependencies: dependencies + ["FuzzSupport"],
        // A single file with `@main`.
        swiftSettings: settings + [.unsafeFlags(["-parse-as-library"])],
        linkerSettings: [.unsafeFlags(["-sanitize=fuzzer"])])
}

let protobuf: Target.Dependency = .product(name: "SwiftProtobuf", package: "swift-protobuf")
let yams: Target.Dependency = .product(name: "Yams", package: "Yams")

let package = Package(
    name: "fermata-fuzz",
    dependencies: [
        // The versions are those of ../Package.swift; scripts/fuzz.sh checks that.
        .package(url: "https://github.com/apple/swift-protobuf", exact: "1.39.0"),
        .package(url: "https://github.com/jpsim/Yams", exact: "6.2.2"),
    ],
    targets: [
        tested("Fleet"),
        tested("Wire", ["Fleet", protobuf]),
        tested("QMP"),
        // The file of sinks is an operator's own, and would bring all of `Notices`.
        tested(
            "HostConfiguration", ["Fleet", yams],
            exclude: ["ParseSinks.swift", "ParseSinkKinds.swift"]),
        fuzzer("FuzzFrames", ["Wire", "Fleet"]),
        fuzzer("FuzzSession", ["Wire", "Fleet"]),
        fuzzer("FuzzMonitor", ["QMP"]),
        fuzzer("FuzzGuestAgent", ["QMP"]),
        fuzzer("FuzzHostFile", ["HostConfiguration", "Fleet"]),
        .systemLibrary(name: "CFuzzer"),
        .target(name: "FuzzSupport", dependencies: ["CFuzzer"], swiftSettings: settings),
    ]
)
