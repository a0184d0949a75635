// swift-tools-version: 6.1
import PackageDescription

// The module map, from the bottom up. ARCHITECTURE.md tells what each is for.
let package = Package(
    name: "moonraft",
    products: [
        .executable(name: "moonraft", targets: ["moonraft"]),
        .executable(name: "moonctl", targets: ["moonctl"]),
        .executable(name: "moonraft-sim", targets: ["moonraft-sim"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0", traits: []),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/LebJe/TOMLKit", from: "0.6.0"),
    ],
    targets: [
        // System libraries and C shims.
        .systemLibrary(
            name: "CNGHTTP2", pkgConfig: "libnghttp2", providers: [.apt(["libnghttp2-dev"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CLMDB", pkgConfig: "lmdb", providers: [.apt(["liblmdb-dev"])]),
        .systemLibrary(
            name: "CLuaSystem", pkgConfig: "lua5.4", providers: [.apt(["liblua5.4-dev"])]),
        .target(name: "CSupport", linkerSettings: [.linkedLibrary("crypt")]),
        .target(name: "CLua", dependencies: ["CLuaSystem"]),

        // Synchronous and deterministic.
        .target(name: "KVCodec"),
        .target(name: "RaftCore"),
        .target(name: "MVCC", dependencies: ["KVCodec", "CSupport"]),
        .target(name: "StateMachine", dependencies: ["MVCC", "KVCodec"]),
        .target(name: "Storage", dependencies: ["CLMDB", "CSupport"]),
        .target(
            name: "Replica",
            dependencies: ["RaftCore", "StateMachine", "MVCC", "Storage", "KVCodec"]),

        // The simulator, which runs the above unchanged.
        .target(
            name: "Simulation",
            dependencies: ["Replica", "RaftCore", "StateMachine", "MVCC", "Storage", "KVCodec"]),
        .executableTarget(name: "moonraft-sim", dependencies: ["Simulation"]),

        // The shell.
        .target(name: "Metrics"),
        .target(name: "Events", dependencies: ["MVCC", "KVCodec"]),
        .target(
            name: "Configuration",
            dependencies: ["TOMLKit", .product(name: "Logging", package: "swift-log")]),
        .target(
            name: "Wire", dependencies: [.product(name: "SwiftProtobuf", package: "swift-protobuf")]),
        .target(
            name: "RPC",
            dependencies: [
                "CNGHTTP2", "CZlib", .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOConcurrencyHelpers", package: "swift-nio"),
            ]),
        .target(
            name: "Plugins",
            dependencies: [
                "CLua", "CSupport", "Configuration",
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "CryptoExtras", package: "swift-crypto"),
            ]),
        .target(
            name: "Peering",
            dependencies: [
                "Replica", "RaftCore", "StateMachine", "Storage", "KVCodec", "CSupport", "Metrics",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOConcurrencyHelpers", package: "swift-nio"),
            ]),
        .target(
            name: "Node",
            dependencies: [
                "Replica", "RaftCore", "StateMachine", "MVCC", "Events", "Storage", "Metrics",
                "CSupport", .product(name: "Crypto", package: "swift-crypto"),
            ]),
        .target(
            name: "API",
            dependencies: [
                "Node", "Peering", "Replica", "StateMachine", "MVCC", "Storage", "RPC", "Wire",
                "Plugins", "Events",
                "KVCodec", "Metrics", "CSupport", "Configuration",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ]),
        .executableTarget(
            name: "moonraft",
            dependencies: [
                "API", "Node", "Peering", "Replica", "RaftCore", "StateMachine", "Events", "Plugins",
                "Configuration", "RPC", "CSupport",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
            ]),
        .executableTarget(
            name: "moonctl",
            dependencies: [
                "RPC", "Wire", .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ]),

        // Tests mirror the targets.
        .testTarget(name: "KVCodecTests", dependencies: ["KVCodec"]),
        .testTarget(name: "MetricsTests", dependencies: ["Metrics"]),
        .testTarget(name: "EventsTests", dependencies: ["Events", "MVCC", "KVCodec"]),
        .testTarget(
            name: "NodeTests",
            dependencies: ["Node", "Replica", "RaftCore", "Storage", "Events", "MVCC", "StateMachine"]),
        .testTarget(
            name: "RaftCoreTests", dependencies: ["RaftCore"], exclude: ["testdata"]),
        .testTarget(
            name: "MVCCTests", dependencies: ["MVCC", "KVCodec", "CSupport"], exclude: ["testdata"]),
        .testTarget(
            name: "StateMachineTests", dependencies: ["StateMachine", "MVCC", "KVCodec"]),
        .testTarget(
            name: "SimulationTests",
            dependencies: ["Simulation", "Replica", "RaftCore", "StateMachine", "Storage"]),
        .testTarget(
            name: "ReplicaTests",
            dependencies: ["Replica", "RaftCore", "StateMachine", "MVCC", "Storage", "Simulation"]),
        .testTarget(name: "StorageTests", dependencies: ["Storage", "CSupport", "CLMDB"]),
        .testTarget(
            name: "ConfigurationTests",
            dependencies: ["Configuration", .product(name: "Logging", package: "swift-log")]),
        .testTarget(
            name: "WireTests",
            dependencies: ["Wire", .product(name: "SwiftProtobuf", package: "swift-protobuf")]),
        .testTarget(
            name: "PeeringTests",
            dependencies: [
                "Peering", "Replica", "RaftCore", "StateMachine", "CSupport",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOConcurrencyHelpers", package: "swift-nio"),
            ]),
        .testTarget(name: "MoonctlTests", dependencies: ["moonctl", "Wire"]),
        .testTarget(
            name: "RPCTests",
            dependencies: [
                "RPC", "CNGHTTP2", "CZlib", .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOConcurrencyHelpers", package: "swift-nio"),
            ]),
        .testTarget(
            name: "PluginsTests",
            dependencies: [
                "Plugins", "CLua", "Configuration",
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "CryptoExtras", package: "swift-crypto"),
            ]),
    ]
)
