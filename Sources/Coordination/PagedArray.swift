/// An array in pages, so that changing one element of a copy does not copy the other elements.
///
/// A copy is free. The first change after it copies the list of pages and one page: some
/// microseconds for a million elements, where an `Array` would stop the loop for a long time. That
/// is what lets a snapshot be written from a copy of the state while the state goes on.
///
/// Every page but the last is full. Elements are dropped from the front without moving the others.
public struct PagedArray<Element> {
    /// A change copies this many elements at most, and the list of pages of a million elements stays
    /// short enough to be copied as quickly. A power of two, so that indices need no division.
    static var pageCountMax: Int { 256 }

    private var pages: [[Element]] = []
    /// Elements at the front of the first page that were dropped; less than a page.
    private var droppedCount = 0
    public private(set) var count = 0

    public init() {}

    public init(_ elements: some Sequence<Element>) {
        for element in elements { append(element) }
    }

    public mutating func append(_ element: Element) {
        let page = (droppedCount + count) / Self.pageCountMax
        if page == pages.count { pages.append([]) }
        pages[page].append(element)
        count += 1
    }

    /// Drops the oldest elements; more than there are empties it.
    public mutating func removeFirst(_ number: Int) {
        precondition(number >= 0, "cannot drop \(number) elements")
        guard number < count else {
            self = PagedArray()
            return
        }
        let gone = droppedCount + number
        pages.removeFirst(gone / Self.pageCountMax)
        droppedCount = gone % Self.pageCountMax
        count -= number
    }

    /// Changes an element in its place.
    public mutating func update<Result>(
        at index: Int, _ change: (inout Element) -> Result
    ) -> Result {
        let place = place(of: index)
        return change(&pages[place.page][place.offset])
    }

    private func place(of index: Int) -> (page: Int, offset: Int) {
        precondition(index >= 0 && index < count, "index \(index) of \(count) elements")
        let number = droppedCount + index
        return (number / Self.pageCountMax, number % Self.pageCountMax)
    }
}

extension PagedArray: RandomAccessCollection {
    public var startIndex: Int { 0 }
    public var endIndex: Int { count }
    public subscript(index: Int) -> Element {
        let place = place(of: index)
        return pages[place.page][place.offset]
    }
}

extension PagedArray: ExpressibleByArrayLiteral {
    public init(arrayLiteral elements: Element...) { self.init(elements) }
}

// Equal content is equal, whatever was dropped before it.
extension PagedArray: Equatable where Element: Equatable {
    public static func == (left: Self, right: Self) -> Bool {
        left.count == right.count && left.elementsEqual(right)
    }
}

extension PagedArray: Hashable where Element: Hashable {
    public func hash(into hasher: inout Hasher) {
        hasher.combine(count)
        for element in self { hasher.combine(element) }
    }
}

extension PagedArray: Sendable where Element: Sendable {}
