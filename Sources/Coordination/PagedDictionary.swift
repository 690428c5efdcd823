/// A dictionary in ascending order of its keys, kept in pages, so that changing one entry of a copy
/// does not copy the other entries.
///
/// Copies cost what they do with ``PagedArray``. Looking up takes two binary searches. The order
/// depends on the keys alone, never on hashes or on what was done before, so that equal content is
/// equal and is written as equal bytes.
public struct PagedDictionary<Key: Comparable & Hashable, Value> {
    public typealias Element = (key: Key, value: Value)

    /// As in ``PagedArray``; a page that is full is split.
    static var pageCountMax: Int { 256 }

    fileprivate struct Page {
        var keys: [Key]
        var values: [Value]
    }

    /// None is empty; all keys of one are below those of the next.
    private var pages: [Page] = []
    public private(set) var count = 0

    public init() {}

    public var isEmpty: Bool { count == 0 }

    public subscript(key: Key) -> Value? {
        get {
            guard case .found(let page, let offset) = find(key) else { return nil }
            return pages[page].values[offset]
        }
        set {
            if let newValue {
                updateValue(newValue, forKey: key)
            } else {
                removeValue(forKey: key)
            }
        }
    }

    /// Whether no key is in `range`, as far as that can be told without looking at every page.
    func isOutside(_ range: ClosedRange<Key>) -> Bool {
        guard let lowest = pages.first?.keys.first, let highest = pages.last?.keys.last else {
            return true
        }
        return highest < range.lowerBound || range.upperBound < lowest
    }

    /// Changes a value in its place.
    ///
    /// - Returns: what `change` answers, or nil if there is no such key.
    @discardableResult
    public mutating func update<Result>(
        _ key: Key, _ change: (inout Value) -> Result
    ) -> Result? {
        guard case .found(let page, let offset) = find(key) else { return nil }
        return change(&pages[page].values[offset])
    }

    public mutating func updateValue(_ value: Value, forKey key: Key) {
        switch find(key) {
        case .found(let page, let offset):
            pages[page].values[offset] = value
        case .missing(let page, let offset):
            count += 1
            insert(key, value, page, offset)
        }
    }

    @discardableResult
    public mutating func removeValue(forKey key: Key) -> Value? {
        guard case .found(let page, let offset) = find(key) else { return nil }
        count -= 1
        pages[page].keys.remove(at: offset)
        let value = pages[page].values.remove(at: offset)
        if pages[page].keys.isEmpty {
            pages.remove(at: page)
        } else if pages[page].keys.count < Self.pageCountMax / 4 {
            mergeWithNext(page > 0 ? page - 1 : page)
        }
        return value
    }

    // MARK: Pages

    private enum Place {
        case found(page: Int, offset: Int)
        /// Where the key would go; the page may be one past the last.
        case missing(page: Int, offset: Int)
    }

    private func find(_ key: Key) -> Place {
        guard let last = pages.last else { return .missing(page: 0, offset: 0) }
        // Loading a snapshot, every key is above all that are there.
        if let highest = last.keys.last, highest < key {
            return .missing(page: pages.count - 1, offset: last.keys.count)
        }
        // The last page whose first key is not above the key.
        var low = 0
        var high = pages.count
        while high - low > 1 {
            let middle = (low + high) / 2
            if key < pages[middle].keys[0] { high = middle } else { low = middle }
        }
        let page = low
        (low, high) = (0, pages[page].keys.count)
        while low < high {
            let middle = (low + high) / 2
            if pages[page].keys[middle] < key { low = middle + 1 } else { high = middle }
        }
        let isFound = low < pages[page].keys.count && pages[page].keys[low] == key
        return isFound ? .found(page: page, offset: low) : .missing(page: page, offset: low)
    }

    private mutating func insert(_ key: Key, _ value: Value, _ page: Int, _ offset: Int) {
        let isAtEnd =
            page >= pages.count - 1
            && offset == (page < pages.count ? pages[page].keys.count : 0)
        if pages.isEmpty || (isAtEnd && offset >= Self.pageCountMax) {
            // Ascending keys fill one page after the other.
            pages.append(Page(keys: [key], values: [value]))
            return
        }
        pages[page].keys.insert(key, at: offset)
        pages[page].values.insert(value, at: offset)
        guard pages[page].keys.count > Self.pageCountMax else { return }
        let half = pages[page].keys.count / 2
        let upper = Page(
            keys: Array(pages[page].keys[half...]), values: Array(pages[page].values[half...]))
        pages[page].keys.removeSubrange(half...)
        pages[page].values.removeSubrange(half...)
        pages.insert(upper, at: page + 1)
    }

    /// Joins two small neighbours, so that there are never many more pages than entries need.
    private mutating func mergeWithNext(_ page: Int) {
        guard page + 1 < pages.count,
            pages[page].keys.count + pages[page + 1].keys.count <= Self.pageCountMax / 2
        else { return }
        let upper = pages.remove(at: page + 1)
        pages[page].keys += upper.keys
        pages[page].values += upper.values
    }
}

extension PagedDictionary: Sequence {
    /// Sees the dictionary as it was when it was made, whatever happens to it meanwhile.
    public struct Iterator: IteratorProtocol {
        private let pages: [Page]
        private var page = 0
        private var offset = 0

        fileprivate init(_ pages: [Page]) { self.pages = pages }

        public mutating func next() -> Element? {
            guard page < pages.count else { return nil }
            let element = (pages[page].keys[offset], pages[page].values[offset])
            offset += 1
            if offset == pages[page].keys.count {
                page += 1
                offset = 0
            }
            return element
        }
    }

    public func makeIterator() -> Iterator { Iterator(pages) }

    public var underestimatedCount: Int { count }

    public var keys: some Sequence<Key> { pages.lazy.flatMap(\.keys) }
    public var values: some Sequence<Value> { pages.lazy.flatMap(\.values) }
}

// Equal content is equal, however it is spread over the pages.
extension PagedDictionary: Equatable where Value: Equatable {
    public static func == (left: Self, right: Self) -> Bool {
        left.count == right.count
            && left.elementsEqual(right) { $0.key == $1.key && $0.value == $1.value }
    }
}

extension PagedDictionary: Hashable where Value: Hashable {
    public func hash(into hasher: inout Hasher) {
        hasher.combine(count)
        for (key, value) in self {
            hasher.combine(key)
            hasher.combine(value)
        }
    }
}

extension PagedDictionary.Page: Sendable where Key: Sendable, Value: Sendable {}
extension PagedDictionary: Sendable where Key: Sendable, Value: Sendable {}
